"""The scripted agent: what it hears, and what it says to that, in English and Spanish. A pure function of the talk."""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Literal

from outbound.conversation import EndCall, Line, OptOut, Piece, Say, Talk, phrases_of
from outbound.speakable import clean

SCRIPT = r"""
opt_out: opts-out ends
en? (do not|never|stop|quit|cease) ((you|ever|please|dare|keep|want|to|be|get|even|with|the|all|your|me|us|a) )*
    (call(s|ing)?|phon(e|ing)|ring(ing)?|contact(ing)?|bother(ing)?|harass(ing)?)
    (?! (me |us |here )?(now|right now|later|today|tonight|tomorrow|at work|at this|so late|so early))
en? (no more|stop|do not want) (\w+ ){0,3}calls|do not want to (be|get) (called|contacted|bothered)
en? (take|remove|delete|scratch|erase|strike) (me|us|my|our|this number)( \w+){0,3} (off|from)
en? get (me|us|my|our|this number)( \w+){0,3} off|(remove|delete|unsubscribe) (me|us)(\W+(please|now|today|thanks?))*$
en? (delete|remove|erase|lose) (my|this|our) (name|number|data|information|phone)|off (your|the|this|that) (\w+ )?list
en? do not call (list|registry)|unsubscribe|opt(ing)?( me)?[ -]out|leave (me|us) alone|revoke my consent
en> I understand. You will not be called again. I am sorry for the disturbance. Goodbye.
es? (no|nunca|jamas) (quiero que |deseo que )?(me |nos |lo |la )?(vuelv\w+ a )?
    (llam|marqu|marc|contact|molest)(en|es|e|ar\w*)(?! (ahora|hoy|luego|manana|mas tarde|a esta))
es? (dej|par)(e|en|es|a|ad) de (llamar|marcar|contactar|molestar|acosar)\w*|deje\w* en paz|lista robinson
es? (quit|sac|saqu|borr|elimin|retir)\w{1,5} (de (su|sus|la|esa|esta|tu)|mi|mis|este numero|nuestro)
es? (quit|saqu|borr|elimin|retir)[ea]n?(me|nos)(\W+(por favor|ya|gracias))*$
es? no (quiero|deseo) (recibir )?(mas |estas |sus )?llamadas|(no mas|basta de) llamadas|d(ar|e|a|en)(me|nos)? de baja
es> Entendido. No le volveremos a llamar. Disculpe la molestia. Adiós.

robot
en? (are|is|am) (you|this|that|it|there|i (talking|speaking) (to|with)) (\w+ ){0,3}?(robot|bot|machine|computer|ai)
en? (are|is|am) (you|this|that|i (talking|speaking) (to|with)) (\w+ ){0,3}?(human|person|a recording|real|automated)
en? (you are|you sound like|this is|it is) (just )?an? (\w+ )?(robot|bot|machine|recording|ai)|robocall
en> I am an AI assistant, not a person. {reason}
en> I am a computer program that talks. I am happy to go on if that is all right with you.
es? (es|eres|esto es|hablo con|hablando con|parece|suena como) (usted |tu )?(\w+ ){0,2}?(robot|maquina|grabacion|bot)
es? (es|eres|esto es|hablo con|hablando con) (usted |tu )?(\w+ ){0,2}?(human[oa]|persona|computadora|contestador)
es? inteligencia artificial
es> Soy un asistente de inteligencia artificial, no una persona. {reason}
es> Soy un programa que habla. Si le parece bien, podemos continuar.

recorded
en? are you (\w+ )?(recording|taping)|(is|are|am) (this|it|you|i|the|my) (\w+ ){0,3}(recorded|taped)|do you record
en> What is said in this call is kept in writing, as notes.
en> The notes of this call are kept, so that a person can read them.
es? (esta|estas|estan) (\w+ )?graba(ndo|da|do)|(se|me) (esta )?graba(n|ndo)?|graban? (esta|la|esto)
es> Lo que se dice en esta llamada se guarda por escrito, como notas.
es> Las notas de esta llamada se guardan para que las lea una persona.

screening
en? (state|say|record|give) your name|your name,? and (the |your )?(reason|why|purpose|what)|screening
en? who is calling,? and why|before i (try to )?connect|reason for (your|the|this) call(ing)?
en? see if (this person|they|he|she) (is|are) available
en> This is {me}. {reason} Thank you.
en> I am {me}, as I said. Thank you, I will wait.
es? (diga|grabe|indique|deje) su nombre y (el |la )?(motivo|razon|por que|asunto)|filtr(o|ando)
es? (indique|diga) (quien|el motivo)|motivo de (su|la) llamada
es> Le habla {me}. {reason} Gracias.
es> Soy {me}, como le decía. Gracias, espero.

machine: ends
en? (leave|take|record) (\w+ ){0,4}(message|name and number)|(after|at|for|hear) the (tone|beep)|voice ?mail|mailbox
en? (can not|unable to|not able to) (come to|get to|answer|take) (the|your|my) (\w+ )?(phone|call)
en? you have reached (the|\d)|not available to take
en> Hello, this is {me}. {reason} Thank you. Goodbye.
es? (dej|grab)\w+ (\w+ ){0,3}(mensaje|recado)|(despues|luego) de(l| la) (tono|senal|bip)|oir la senal|buzon|contestador
es? no (puedo|podemos|puede) (atender|contestar)\w* (su|tu|la|el|en este)
es> Hola, le llamó {me}. {reason} Gracias. Adiós.

wrong_number: ends
en? wrong (number|person|guy|house|phone)|(by|with|of) that name|(does not|no longer) lives? here
en? there is (no|nobody|no one) \w+ here|do not know (him|her|anyone)|not (his|her|my) number
en> I am sorry to have disturbed you, that was the wrong number. Goodbye.
es? (numero )?equivoc\w+|aqui no (vive|hay|es)|no vive aqui|con ese nombre|no conozco a|ya no vive|no es su numero
es> Disculpe la molestia, me equivoqué de número. Adiós.

loss: ends
en? passed away|deceased|(he|she|husband|wife|mother|father|mom|dad) (is |has |just )?(dead|died)
en> I am very sorry for your loss, and for having disturbed you. Goodbye.
es? fallec(io|id[oa])|difunt[oa]|(el|ella|espos[oa]|marido|mujer|madre|padre) (ya )?(murio|esta muert[oa])
es> Siento mucho su pérdida, y haberle molestado. Adiós.

spanish
en? (speaks?|in) (\w+ )?spanish|spanish,? please|not speak (\w+ )?english|no (speak )?english
en? ^spanish$
es? habla(s|n|r)? (\w+ )?(espanol|castellano)|en (espanol|castellano)|espanol,? por favor
es? no (hablo|entiendo|se) (\w+ )?ingles
es> Claro, hablemos en español. {reason} ¿Le parece bien?
es> Seguimos en español, con gusto. ¿Qué le gustaría saber?

english
en? (speaks?|in) (\w+ )?english|english,? please|not speak (\w+ )?spanish
en? ^english$
en> Of course, let us speak English. {reason} Is that all right with you?
en> English it is, gladly. What would you like to know?
es? habla(s|n|r)? (\w+ )?ingles|en ingles|ingles,? por favor|no (hablo|entiendo) (\w+ )?espanol

scam
en? scam(s|mers?|ming)?|fraud|legit(imate)?|phishing|trust (you|this)
en> It is right to ask. This is {me}. {reason}
en> You need not tell me anything. If you are in doubt, please hang up and check first.
es? estaf\w+|fraude|timo|engan\w+|confiar en (usted|esto|ti)
es> Hace bien en preguntar. Le habla {me}. {reason}
es> No hace falta que me diga nada. Si lo duda, cuelgue y compruébelo antes.

source
en? (get|got|have|find|found|gave|give) (you )?(my|this|our) (\w+ )?(number|name|data|information|contact)
en> I do not know where the number comes from. I have noted your question, for a person to answer.
en> I was given only the number to ring. Your question is in the notes.
es? (tien\w+|consigui\w+|obtuv\w+|dio|dieron|sac\w+) (\w+ )?(mi|este|nuestro) (numero|telefono|nombre)
es? (mi|este) (numero|telefono) (quien|como|de donde)
es> No sé de dónde viene el número. He anotado su pregunta para que la conteste una persona.
es> Solo me dieron el número al que llamar. Su pregunta está en las notas.

complaint
en? complain(t|ts|ing)?|sue (you|your|them)|lawyers?|attorney
en> I am sorry to hear that. I have noted it, for a person to read.
en> Every word of it is in the notes of this call. Is there anything else?
es? quej(a|as|o|arme)|reclam(o|acion|ar)|denunci\w+|demand(ar|are)\w*|abogad[oa]
es> Lamento oírlo. Lo he anotado para que lo lea una persona.
es> Cada palabra queda en las notas de la llamada. ¿Hay algo más?

long
en? \w++(\W++\w++){40}
en> Thank you for telling me. That was a lot at once. What matters most to you?
en> I see. I cannot take in everything at once. Could you put it in one sentence?
en> Thank you for explaining. All of it is in the notes of this call, for a person to read.
es? \w++(\W++\w++){40}
es> Gracias por contármelo. Fue mucho de una vez. ¿Qué es lo más importante para usted?
es> Ya veo. No puedo retener todo a la vez. ¿Podría decirlo en una frase?
es> Gracias por explicarlo. Todo queda en las notas de la llamada para que lo lea una persona.

person
en? (speak|talk|transfer|connect|put|get|give|want|need|like) (\w+ ){0,5}(person|human|manager|supervisor|agent|boss)
en? (speak|talk|connect) (\w+ ){0,3}(someone|somebody)|(real|live|actual) (person|human|agent)
en? customer service|representative|operator|human being
en> I cannot connect you myself. I have noted that you would like to talk to a person.
en> Your wish to talk to a person is noted. Is there anything else that I should add?
es? (hablar|comuni\w+|pase\w*|pong\w+|transf\w+|quiero|necesito) (\w+ ){0,5}
    (persona|human[oa]|alguien|agente|gerente|encargad[oa]|supervisora?|representante|operadora?|jef[ea])
es> Yo no puedo pasarle. He anotado que desea hablar con una persona.
es> Su deseo de hablar con una persona está anotado. ¿Quiere que añada algo más?

who
en? who (is |are )?(the \w+ )?(this|that|it|there|you|calling|speaking|on the)|who am i|who (did|do) you|(ask|know) who
en? ^who$
en? what (is|was) your name|(which|what) company|where are you (calling|phoning)
en> This is {me}. {reason}
en> You are talking to {me}.
en> My apologies if that was unclear. I am {me}.
es? quien (es|eres|habla|llama|me|hablo|tengo)|de parte de quien|como se llama|su nombre
es? ^quien$
es? (que|cual) (empresa|compania)|de donde (me )?(llama|habla)
es> Le habla {me}. {reason}
es> Está hablando con {me}.
es> Perdone si no quedó claro. Soy {me}.

why
en? why (are|did|do|is|would) (you|this)|why me|what (is|was) (\w+ ){1,2}(about|for|regarding)|are you selling
en? what (do|did) you (want|need)|what are you (selling|calling|offering)|(reason|purpose) (for|of)
en? ^why$
en? how (can|may) i help|what can i do for you
en> {reason} Is that all right with you?
en> It is only this: {reason}
en> That is all there is to it. {reason}
es? (por|para) que (me )?(llam\w+|esta llam\w+|es)|de que se trata|motivo|a que se debe|en que (le |te )?puedo
es? ^por que$
es? que (quiere|desea|necesita|vende|me vende|se le ofrece)
es> {reason} ¿Le parece bien?
es> Es solo esto: {reason}
es> Eso es todo. {reason}

how_long
en? how long|how much (of my )?time|(take|be) (very )?long
en> Only a minute or two.
en> Not long at all, two minutes at most.
es? cuanto (tiempo|tarda|dura)|(va|vas) a tardar
es> Solo un minuto o dos.
es> Muy poco, dos minutos como mucho.

price
en? how much (is|are|it|does|do|did|will|would|for)|(the|your|any|what) (price|cost|fee)s?|prices
en? (it|this|that) costs?|you charge
en> I do not know any prices, nor more than I told you. I have noted your question, for a person to answer.
en> That I cannot say. It is noted as well.
es? cuanto (cuesta\w*|vale\w*|sale|cobran?|es|seria|hay que pagar)|precios?|tarifas?|cuotas?|que costo|(el|un) costo
es> No sé los precios, ni más de lo que le dije. He anotado su pregunta para que la conteste una persona.
es> Eso no puedo decírselo. También queda anotado.

question
en? (can|could|may) i (just )?ask|(have|got) (a|one|another|some) (\w+ )?questions?|(one|a) (quick )?question
en> Of course, please ask.
en> Yes, what would you like to know?
es? (puedo|podria|quiero|queria) (hacerle|preguntar\w*)|tengo (una|otra|unas) (\w+ )?preguntas?|una pregunta
es> Claro, pregunte.
es> Sí, ¿qué le gustaría saber?

go_on
en? go (ahead|on)|continue|keep (going|talking)|carry on|tell me( more| about)?|i am listening|you were saying
en? (do not|never) (stop|hang up)|not (\w+ )?(busy|driving)|i have (a |some )?(time|minute|moment)|what is it
en> As I was saying: {reason}
en> {reason} What would you like to know?
en> I have told you all I know. Is there anything that I should note down?
es? adelante|siga|sigue|continue|continua|diga(me)?|(le|te) escucho|cuenteme|expliqu\w+
es? no (pare|se detenga|cuelgue)|no (estoy|estaba) (\w+ )?(ocupad[oa]|manejando|conduciendo)
es> Como le decía: {reason}
es> {reason} ¿Qué le gustaría saber?
es> Ya le dije todo lo que sé. ¿Quiere que anote algo?

later: ends
en? (call|ring|phone|try) (\w+ ){0,2}(back|later|tomorrow|next|another|some other|in (a|an|the|\d+)|after)|another time
en? busy|driving|in a meeting|at work|in the middle of|having (dinner|lunch)|(bad|wrong) time|can not (talk|speak)
en? do not (call|ring|phone) (me |us |here )?(now|today|at|so)
en? not (a|the) (\w+ )?(time|moment)|not (right )?now|(no|not have) (any |the )?time
en> All right, I have noted that this was not a good moment. Sorry to interrupt. Goodbye.
es? (llam|marqu|marc|habl|intent)\w* (\w+ ){0,2}(luego|despues|manana|otr[oa]|en un[oa]?s?)|mas tarde|mal momento
es? ocupad[oa]|manejando|conduciendo|reunion|trabajando|en el trabajo|comiendo|cenando|no puedo (hablar|atender|ahora)
es? no (me )?(llam|marqu)\w+ (ahora|hoy|a esta)|no es (un )?buen momento|no tengo tiempo|otro momento|ahora (mismo )?no
es> Muy bien, he anotado que no era un buen momento. Disculpe la interrupción. Adiós.

decline: ends
en? not (really |at all )?interest\w*|no interest|not (want|need) (it|any|that|this|anything)|no,? thanks?
en> I understand. Thank you for your time. Goodbye.
es? no (me |nos )(interesa|hace falta)|no estoy interesad[oa]|no,? (muchas )?gracias|no (quiero|necesito) (nada|eso)
es> Entiendo. Gracias por su tiempo. Adiós.

repeat: ends in-a-row
en? (say|repeat|hear) (that|it|again|what)|(come|once) again|repeat|pardon|one more time|what (was )?that
en? what (did|do|are) you (just )?say\w*|(not|barely|hardly) (quite |really )?(hear|catch|understand)
en? speak (up|louder|slower|more)
en? ^(what|huh|sorry|excuse me|eh)$
en> I said: {last}
en> Once more: {last}
en> I am sorry that I am so hard to understand. {offer}
en> I am sorry, this line does not seem to work for us. Goodbye.
es? repit\w+|repet\w+|otra vez|de nuevo|no (le |lo |te |la )?(entend\w+|entiendo|escuch\w+|oigo|oi|comprend\w+)
es? como dice|que (dijo|ha dicho|dice)|mas (despacio|lento|alto|fuerte)
es? ^(que|como|mande|perdon|eh)$
es> Le decía: {last}
es> Una vez más: {last}
es> Siento que se me entienda tan mal. {offer}
es> Lo siento, parece que esta línea no nos sirve. Adiós.

bye: ends
en? good ?bye|bye|see you|take care|have a (good|nice|great) \w+|talk to you later|good night|hanging up
en? (have|need|got|gotta) (to )?(go|run|leave)|that (is|was) (all|it|everything)
en> Thank you for your time. Have a good day. Goodbye.
es? adios|hasta (luego|pronto|manana|la vista)|chao|nos vemos|que (tenga|pase) (un |una )?(buen|feliz)\w*
es? (tengo que|voy a) (irme|colgar|dejarle|ir)|me voy|eso es todo|nada mas
es> Gracias por su tiempo. Que tenga un buen día. Adiós.

hold
en? hold (on|please|the line)|please hold|hang on|(one|a) (moment|second|sec|minute)|just (a|one) \w+
en? wait|bear with me|stay on the line
en? ^(hold|stop)$
en> Of course, take your time.
en> I am still here.
es? (un|deme un) (momento|momentito|segundo|minuto)|esper\w+|aguard\w+|permitame|en linea
es> Claro, tómese su tiempo.
es> Aquí sigo.

how_are_you
en? how are you|how is it going|how do you do
en> I am well, thank you. {reason}
en> Still well, thank you.
es? como (esta|estas|le va|te va)|que tal
es> Muy bien, gracias. {reason}
es> Todo sigue bien, gracias.

thanks: ends
en? thanks?|appreciate (it|that|your)
en> You are welcome. Is there anything else?
en> My pleasure. I wish you a good day. Goodbye.
es? gracias|agradezco
es> De nada. ¿Hay algo más?
es> Un placer. Le deseo un buen día. Adiós.

hello: ends in-a-row
en? ^(hello|hi|hey|good (morning|afternoon|evening)|yes hello)
en? are you (still )?there|hear me
en> Hello there. This is {me}. {reason}
en> Yes, I can hear you.
en> I am on the line. What can I tell you?
en> I am sorry, we do not seem to hear each other. Goodbye.
es? ^(hola|alo|buen(os|as) (dias|tardes|noches)|buenas)
es? me (oyes?|escuchas?)|sigue ahi|hay alguien
es> Hola, buenas. Le habla {me}. {reason}
es> Sí, le oigo bien.
es> Estoy en la línea. ¿Qué puedo decirle?
es> Lo siento, parece que no nos oímos. Adiós.

maybe
en? ^(maybe|perhaps|possibly|i (guess|suppose|think)( so| not)?|it depends|(i am )?not sure|i (do not|would not) know)$
en> There is no need to decide anything now. What would you like to know?
en> I have noted it as a maybe. Is there anything else?
es? ^(quiza|quizas|tal vez|puede ser|a lo mejor|supongo( que (si|no))?|depende|no (lo )?se|no estoy segur[oa])$
es> No hace falta decidir nada ahora. ¿Qué le gustaría saber?
es> Lo he anotado como un quizá. ¿Hay algo más?

no: ends
en? ^(no(?! problem| worries)|nope|nah|not (really|at all|yet)|never|negative)
en? ^i (do|can|did|would) not( want to| think so)?$
en? ^(of course|absolutely|certainly|definitely) not
en> All right. Is there anything that you would like to know?
en> Then I will not keep you. Thank you. Goodbye.
es? ^(no(?! hay problema| problem)|para nada|nunca|jamas|claro que no|en absoluto|de ninguna manera|tampoco|nada)
es> De acuerdo. ¿Hay algo que le gustaría saber?
es> Entonces no le entretengo más. Gracias. Adiós.

yes: ends
en? ^(yes|yeah|yep|yup|ya|sure|ok|okay|of course|certainly|absolutely|definitely|correct|right(?! now)|exactly|fine)
en? ^(all ?right|sounds good|please do|i (do|am|would|can|will)$|that is (right|fine|correct|me)|speaking$)
en? ^(this is (he|she|him|her)|uh[- ]?huh|mm[- ]?hm+|no (worries|problem)|(why not|great|perfect|good)$)
en> Great, thank you. {reason} Would you like to ask me anything?
en> Good, I have noted that. Anything more?
en> That is all I needed. Thank you, and have a good day. Goodbye.
es? ^(si|claro|por supuesto|vale|de acuerdo|correcto|exacto|bueno|bien|muy bien|esta bien|asi es|desde luego|perfecto)
es? ^(soy yo|dale|aja|ok|okay|seguro|como no|no hay problema|con (el|ella)$)
es> Estupendo, gracias. {reason} ¿Le gustaría preguntarme algo?
es> Bien, lo he anotado. ¿Algo más?
es> Eso es todo lo que necesitaba. Gracias y que tenga un buen día. Adiós.

keypad
en> Thank you, I got {keys}.
en> This time I got {keys}.
es> Gracias, recibí {keys}.
es> Esta vez recibí {keys}.

unclear: ends in-a-row
en> I am sorry, I did not quite get that. Could you say it in other words?
en> I am afraid I still do not follow. Could you say it in a few words?
en> I am sorry, I have trouble understanding you. {offer}
en> I am sorry that I could not help you. Thank you for your patience. Goodbye.
es> Perdone, no le entendí bien. ¿Podría decirlo de otra manera?
es> Me temo que sigo sin entenderle. ¿Podría decirlo en pocas palabras?
es> Lo siento, me cuesta entenderle. {offer}
es> Siento no haber podido ayudarle. Gracias por su paciencia. Adiós.
"""
"""One block a rule; the first rule that hears something in the callee's words answers.

`en?` is what it hears: a regular expression at word boundaries, continued by indented lines, for words in lower case
without accents and contractions ("I'm" is "i am"); `^`, only at the start, lets hesitation go before, `$` lets
punctuation follow. `en>` is what it says the first time, the second time and so on; a rule with sentences in one
language only answers in that one. `ends`: the call is over after the last of these; `opts-out`: for good, whenever it
is heard; `in-a-row`: begins again with the first one when something else was said in between.
"""

type Language = Literal["en", "es"]
LANGUAGES: tuple[Language, ...] = ("en", "es")

NEGATED: Mapping[Language, re.Pattern[str]] = {
    "en": re.compile(
        r"\b(not|never|no need to)( (please|ever|really|so|too|very|that|a|an|the|at all|right now|currently|you|me|us"
        r"|to|be|been|going|want|wanted|need|have|mean|say|said|tell|told|ask|asked|talk|speak))* ?$"
    ),
    "es": re.compile(
        r"\bno( (me|te|se|le|lo|estoy|esta|estaba|es|era|un|una|el|la|tan|muy|voy|a|quiero|quise|que|digo|dije|he|dicho"
        r"|hablar|con))* ?$"
    ),
}
"""What turns a match round when it stands right before it: "do not | stop", "i am not | busy", "no estoy | ocupado"."""

HESITATION = r"^(?:(?:oh|ah|well|um+|uh+|er|so|and|but|please|pues|bueno|eh|este|ay|por favor)[^\w-]+)*(?:"
SPELT_OUT = {"\u2019": "'", "can't": "can not", "cannot": "can not", "dont ": "do not ", "n't": " not"}
SPELT_OUT |= {"'m": " am", "'re": " are", "'ve": " have", "'ll": " will", "'s": " is", "¿": " ", "¡": " "}
OFFER = {
    "en": "Should I note that you would like to talk to a person?",
    "es": "¿Anoto que desea hablar con una persona?",
}
WHAT_DID_YOU_SAY = {
    "en": "Sorry, the line broke up for a moment. What did you say?",
    "es": "Perdone, se ha cortado un momento. ¿Qué me decía?",
}
OPEN_QUESTION = re.compile("anything else|Anything more|ask me anything|like to know|lgo más|algo que le|le gustaría")
"""A "no" to one of these means that the talk is over."""


@dataclass(slots=True)
class Rule:
    """One block of `SCRIPT`."""

    intent: str
    marks: set[str]
    hears: dict[Language, re.Pattern[str]]
    says: dict[Language, list[str]]

    def hears_in(self, plain: str, language: Language) -> bool:
        """Whether one of the words is there without a negation before it."""
        return any(
            not NEGATED[language].search(plain, max(0, match.start() - 60), match.start())
            for match in self.hears[language].finditer(plain)
        )

    @property
    def then(self) -> tuple[Piece, ...]:
        """What follows the last sentence."""
        return (OptOut(),) * ("opts-out" in self.marks) + (EndCall(),) * ("ends" in self.marks)


@cache
def rules() -> Mapping[str, Rule]:
    """`SCRIPT`, read once, in its order."""
    read = {}
    for block in SCRIPT.strip().replace("\n    ", "").split("\n\n"):
        head, *rows = block.splitlines()
        intent, *marks = head.replace(":", "").split()
        rule = read[intent] = Rule(intent, set(marks), hears={}, says={})
        for language in LANGUAGES:
            rule.says[language] = [row[4:] for row in rows if row.startswith(f"{language}> ")]
            heard = [row[4:].replace("$", r"(?=\W*$)") for row in rows if row.startswith(f"{language}? ")]
            heard = [row.replace("^", HESITATION) + ")" * row.startswith("^") for row in heard]
            rule.hears[language] = re.compile(rf"\b(?:{'|'.join(heard)})\b" if heard else "(?!)")
    return read


def script(talk: Talk) -> Iterator[Piece]:
    """The scripted agent's reply, a pure function of the talk."""
    is_cut = talk.resumed and bool(talk.lines) and talk.lines[-1].role == "agent"
    words, then, _ = _unheard(talk) if is_cut else _reply(talk)
    # Word by word, as a model would: what is measured and tried with the script holds for a model.
    yield from map(Say, re.findall(r"\S+\s*", words))
    yield from then


type _Reply = tuple[str, tuple[Piece, ...], Language]
"""What is said, what follows it, and the language."""


def _reply(talk: Talk) -> _Reply:
    """The whole reply to the last line."""
    rule, language = _understand(talk)
    facts = _facts(talk, language)
    if rule.intent == "repeat":
        facts = {**facts, "last": _to_repeat(talk, language, facts)}
    before = next((line.text for line in reversed(talk.lines) if line.role == "agent" and not line.interrupted), "")
    for sentences, then in _answers(rule, language, facts, talk.lines):
        words = sentences.strip()
        if OptOut() in then:  # is confirmed as often as it is asked for
            before = ""
        if rule.intent != "repeat":  # whoever asks for it hears a sentence again, nobody else does
            words = "".join(s for s in re.findall(r"[^.?!]+[.?!]*", words) if s.strip() not in before).strip()
        if words and words != before:
            return words, then, language
    return "", (), language


def _unheard(talk: Talk) -> _Reply:
    """What is left of a reply that broke off, from the beginning of the sentence that was cut.

    A goodbye that was heard is said again, since it is followed by hanging up; where nothing else is left, the callee
    is asked what they said meanwhile.
    """
    asked = max((place for place, line in enumerate(talk.lines, 1) if line.role == "callee"), default=0)
    words, then, language = _reply(replace(talk, lines=talk.lines[:asked]))
    lead_in = phrases_of(language).as_i_was_saying
    content = words.removeprefix(f"{lead_in} ")
    heard = _words_heard(content, talk.lines[asked:], lead_in)
    if not heard:
        return words, then, language
    first, *left = sentences = re.split(r"(?<=[.?!])\s+", content)
    while heard >= len(_bare(first).split()):
        heard -= len(_bare(first).split())
        if not left:
            return sentences[-1] if then else WHAT_DID_YOU_SAY[language], then, language
        first, *left = left
    is_goodbye = bool(then) and not left
    return " ".join([*([] if is_goodbye else [lead_in]), first, *left]), then, language


def _words_heard(reply: str, lines: Sequence[Line], lead_in: str) -> int:
    """How many words of the reply the lines have brought, each on its own; what is not of the reply does not count."""
    said, heard = f"{_bare(reply)} ", 0
    for line in lines:
        text = _bare(line.text).removeprefix(f"{_bare(lead_in)} ")
        at = f" {said}".find(f" {text}")
        if at >= 0:
            heard = max(heard, said[: at + len(text) + 1].count(" "))  # a word that was cut is not complete
    return heard


def _bare(text: str) -> str:
    """The words alone, whatever their case, accents and punctuation."""
    return " ".join(re.findall(r"\w+", _plain(text)))


def farewell(language: Language, *, opted_out: bool) -> str:
    """What to say before hanging up."""
    return rules()["opt_out" if opted_out else "bye"].says[language][0]


def _understand(talk: Talk) -> tuple[Rule, Language]:
    """The rule that answers the last line, and the language to answer in."""
    said = next((line for line in reversed(talk.lines) if line.role == "agent"), Line("agent", ""))
    heard = talk.lines[-1] if talk.lines and talk.lines[-1].role == "callee" else Line("callee", "")
    own = language_of(talk)
    intent, language = ("keypad", own) if heard.keypad else meaning(heard.text, own)
    if said.interrupted and intent in ("yes", "hello", "unclear"):
        intent = "go_on"
    elif OFFER[language] in said.text and intent in ("yes", "no"):
        intent = "person" if intent == "yes" else "bye"
    elif intent == "no" and OPEN_QUESTION.search(said.text):
        intent = "bye"
    rule = rules()[intent]
    return rule, language if rule.says[language] else next(other for other in LANGUAGES if rule.says[other])


def language_of(talk: Talk) -> Language:
    """The language that the talk is in, before the last line was understood.

    Spanish where the recogniser says so; else that of the newest line that tells; else English.
    """
    if talk.language.lower().startswith("es"):
        return "es"
    known = {value for language in LANGUAGES for value in _known(talk, language).values() if value}
    for line in reversed(talk.lines):
        text = line.text
        for value in sorted(known, key=len, reverse=True):
            text = text.replace(value, " ")
        if line.role == "callee" and len(understood := _heard(text)[1]) == 1:
            return understood[0]
        if language := _language_in(text):
            return language
    return "en"


def _language_in(text: str) -> Language | None:
    """The language that most of the words belong to, as the sentences of `SCRIPT` use them."""
    words = re.findall(r"\w+", _plain(text))
    spanish, english = (sum(word in _vocabulary()[language] for word in words) for language in ("es", "en"))
    spanish += 2 * bool(re.search("[¿¡ñ]", text))
    return "es" if spanish > english + 1 else "en" if english > spanish + 1 else None


@cache
def _vocabulary() -> Mapping[Language, set[str]]:
    """The words of the script's sentences that only one language has."""
    said = {language: " ".join(s for rule in rules().values() for s in rule.says[language]) for language in LANGUAGES}
    words = {language: set(re.findall(r"\w+", _plain(re.sub(r"{\w+}", "", said[language])))) for language in LANGUAGES}
    return {language: words[language] - (words["en"] & words["es"]) for language in LANGUAGES}


def meaning(text: str, own: Language) -> tuple[str, Language]:
    """What is meant, by the order of the rules; words of the other language count too."""
    intent, languages = _heard(text)
    return intent, own if own in languages else languages[0]


@lru_cache(maxsize=1)  # a turn asks twice about the same words: which language they tell, and what they mean
def _heard(text: str) -> tuple[str, Sequence[Language]]:
    """The first rule that hears something in the text, and the languages it does in: all, where none hears anything."""
    plain = _plain(text)
    for short, full in SPELT_OUT.items():
        plain = plain.replace(short, full)
    plain = " ".join(plain.split()).lstrip(" .,;:!?\"'-")
    for rule in rules().values():
        if languages := [language for language in LANGUAGES if rule.hears_in(plain, language)]:
            return rule.intent, languages
    return "unclear", LANGUAGES


def _plain(text: str) -> str:
    """The text in lower case and without accents."""
    return "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))


def _answers(
    rule: Rule, language: Language, facts: Mapping[str, str], lines: Sequence[Line]
) -> Iterator[tuple[str, tuple[Piece, ...]]]:
    """The rule's answers, the one whose turn it is first; after them the clarifying questions."""
    says = [sentences.format_map(facts) for sentences in rule.says[language]]
    openings = [sentences.format_map({**facts, "last": ""}).partition(". ")[0] for sentences in rule.says[language]]
    turn = 0
    for line in reversed(lines):
        if line.role == "agent" and any(opening in line.text for opening in openings):
            turn += 1
        elif line.role == "agent" and "in-a-row" in rule.marks:
            break
    if rule.then:
        turn = min(turn, len(says) - 1)
    for place in (*range(turn % len(says), len(says)), *range(turn % len(says))):
        yield says[place], rule.then if place == len(says) - 1 else ()
    if rule.intent != "unclear":
        yield from _answers(rules()["unclear"], language, facts, lines)


def _facts(talk: Talk, language: Language) -> Mapping[str, str]:
    """What the sentences can name."""
    known = _known(talk, language)
    name, company, purpose = known.get("agent_name"), known.get("company"), known.get("purpose", "")
    if language == "en":
        me = (f"{name}, " if name else "") + "an AI assistant" + (f" calling from {company}" if company else "")
        reason = f"I am calling {'' if purpose.startswith('to ') else 'about '}{purpose}."
        reason = reason if purpose else "I was asked to ring you and to hear whether you have any questions."
        introduction = "This is"
        names = {"*": "star", "#": "pound"}
    else:
        me = f"{name}, asistente" if name else "un asistente"
        me += " de inteligencia artificial" + (f" de {company}" if company else "")
        reason = f"Le llamo {'' if purpose.startswith('para ') else 'por lo siguiente: '}{purpose}."
        reason = reason if purpose else "Me pidieron llamarle por si tiene alguna pregunta."
        introduction = "Le habla"
        names = {"*": "asterisco", "#": "numeral"}
    keys = ", ".join(names.get(key, key) for key in (talk.lines[-1].text if talk.lines else "") if not key.isspace())
    introduction += f" {me}. {reason}"
    return {"me": me, "reason": reason, "introduction": introduction, "keys": keys, "offer": OFFER[language]}


def _to_repeat(talk: Talk, language: Language, facts: Mapping[str, str]) -> str:
    """What was said last, where it was heard and is in this language."""
    repeating = tuple(s.removesuffix("{last}") for says in rules()["repeat"].says.values() for s in says[:2])
    said = [line for line in talk.lines if line.role == "agent" and not line.text.startswith(repeating)]
    last = said[-1].text if said and not said[-1].interrupted else facts["reason"]
    last = last.removeprefix(f"{phrases_of(language).as_i_was_saying} ")
    return last if _language_in(last) in (language, None) else facts["introduction"]


def _known(talk: Talk, language: Language) -> Mapping[str, str]:
    """What the call is about, as it is spoken."""
    return {name: _spoken(str(value), language) for name, value in talk.variables.items()}


@lru_cache(maxsize=1024)
def _spoken(value: str, language: Language) -> str:
    """Cleaned once: a call says the same few values turn after turn."""
    return clean(value, language=language).strip(" .")
